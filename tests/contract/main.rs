mod classifier;
