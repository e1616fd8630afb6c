"""Training set filtering: remove suspicious images from the training set as delivered, train anew."""
