"""What every long computation needs: seeds, settings, files, devices, workers, Ctrl-C. Imports nothing of
minigtn."""
