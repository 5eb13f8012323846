"""The paper's method, and what it takes to learn it task after task. In the order in which it is best read:

attention    audio queries steer visual attention: where, and when
model        attention, fusion, and a classifier that grows
losses       cross-entropy and dual distillation: the logit level and the feature level
train        `run_task`, the algorithm
memory       which clips are kept as exemplars
heads        read-outs that are solved instead of learnt
evaluate     a checkpoint's model, what it predicts, and how well; metrics has the formulas
optimise     batches, steps, epochs; feed brings the clips, parallel shares them among GPUs,
             and capacity counts the runs that fit on one
hooks        where a method may do what the core does not; methods has a file for each
checkpoint   what goes from task to task; chain and live: seeds side by side, and what they log
"""
