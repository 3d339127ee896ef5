"""Bytes to arrays: the IDX format, the known data sets, how to get them, how to split them."""
