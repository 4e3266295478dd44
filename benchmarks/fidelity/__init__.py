"""Does the training follow the textbook's, and how much does the seed matter?"""
