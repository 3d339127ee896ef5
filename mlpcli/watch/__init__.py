"""The live page: what a run or a folder of runs comes to while it is trained, served to a browser of this machine."""
