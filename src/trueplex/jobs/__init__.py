"""The long jobs of the command line. Each can be stopped and taken up again."""
