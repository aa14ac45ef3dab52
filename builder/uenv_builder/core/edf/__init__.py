"""Environment definition files (EDF): reading, judging and writing them, for the two engines that take them."""
