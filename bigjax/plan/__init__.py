"""A train step compiled for hardware that is not there: does it fit, what does it compute and send, how long may it take?"""
