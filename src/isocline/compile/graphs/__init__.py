"""Steps on a GPU without the host in between: several rounds captured as one graph of the device.

A CUDA graph has no loop that ends by a condition. So it holds a fixed number of rounds, each of
which looks at what it was given: where the solve is done, it changes nothing. The host starts
graph after graph and looks at the verdict of one while the next is running.
"""
