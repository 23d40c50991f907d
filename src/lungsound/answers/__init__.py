"""What is answered for recordings, and the formats that it is written in."""
