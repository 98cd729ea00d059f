"""`--help`, without the search over all of Hydra's own groups that takes Hydra's help a second."""

from collections.abc import Sequence
from string import Template

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from bit_axon.composition import conf_dir, config_groups, register_resolvers

_FLAGS = ("--help", "-h")


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the arguments are `--help` and overrides; with other flags Hydra's own help answers."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    return bool(flags) and all(flag in _FLAGS for flag in flags)


def show_help(arguments: Sequence[str]) -> None:
    """Prints the groups, the composed config and how to go on, by the template in `conf/hydra/help/`."""
    register_resolvers()
    overrides = [argument for argument in arguments if argument not in _FLAGS]
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("config", overrides, return_hydra_config=True)
    template = Template(config.hydra.help.template)
    with open_dict(config):
        del config["hydra"]
    print(template.safe_substitute(APP_CONFIG_GROUPS=_groups(), CONFIG=OmegaConf.to_yaml(config)))


def _groups() -> str:
    groups = sorted(item for item in config_groups().items() if item[0] != "hydra")
    return "\n".join(f"{group}: {', '.join(options)}" for group, options in groups)
