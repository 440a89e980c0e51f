"""What training and evaluation cost: time, memory, and operations counted from shapes."""
