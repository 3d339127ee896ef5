"""Many runs of one config: a sweep file to the runs it asks for, and those to run directories, by many processes."""
