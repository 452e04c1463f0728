"""What people would use instead, and the floors: what the engines and the libraries give when next to nothing is done with them."""
