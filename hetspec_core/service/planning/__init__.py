"""What a plan is made of: parameters, facts of the machine and the data, memory, disk and time."""
