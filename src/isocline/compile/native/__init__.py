"""The time loop over compiled steps, and the walk back, in C++ (`driver.cpp`)."""
