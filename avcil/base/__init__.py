"""What every room stands on: files written whole, progress bars, portable arithmetic."""
