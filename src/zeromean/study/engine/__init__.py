"""How a study is conducted: orders given out, runs trained side by side, results kept."""
