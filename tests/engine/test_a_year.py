"""More than a year of everything that runs by itself, on a clock that passes at once. (Being written by helper S, issue 4 section 9.)"""
