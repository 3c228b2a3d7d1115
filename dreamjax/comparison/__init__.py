"""Train and score several retrieval systems on the same trials, under a named protocol: `dreamjax compare`."""
