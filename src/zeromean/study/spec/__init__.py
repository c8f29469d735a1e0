"""What a study is: typed values, checked when they are made, without torch."""
