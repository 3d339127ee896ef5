"""The live page of a run or a folder of runs, served to browsers on this machine."""
