"""Post-training quantisation of a trained network, simulated: it shows what accuracy is left, never a speed.

``settings`` says what can be asked (no torch); ``network`` prepares a network; ``calibrate``, ``smooth`` and ``mixed``
are the parts of MPTQ-ViT (arXiv 2401.14895). Of these, SQ-b, OPT-m and Greedy MP are reconstructions: the paper's text
was not available, only its abstract, third-party summaries, and the code of the work it builds on (PTQ4ViT).
"""
