"""Train many variations of one config: from a sweep file to a plan of runs, and from these to run directories."""
