"""What every room stands on: files written whole, processes, devices, progress bars, portable arithmetic."""
