"""The mathematics: the network, its objectives and their gradients. numpy, no files, no printing."""
