"""What was learnt, applied: clips in; labels, and where and when was looked, out; new classes in closed form."""
