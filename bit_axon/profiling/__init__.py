"""What a machine says about itself while it works: temperatures, pressure, power, speed."""
