"""Judge generated images: features, distances, and the report that a user opens.

In reading order:

    rows         features of many samples, read in blocks
    statistics   mean and scatter, merged from batches; the Fréchet distance
    predictions  sums over a classifier's predictions; the Inception Score
    pairs        programs over all pairs of samples, on the devices
    neighbours   precision and recall
    kernel       the Kernel Inception Distance
    sliced       the Monge Inception Distance
    distances    all of these under their public names
    found        what a network finds in images
    metrics      one row per metric: what it is computed from, how it prints, how to read it
    results      a setting's scores over seeds
    tally        what networks find in a stream of images, saved along the way
    reading      the real images, in batches
    image_sets   other people's images: .npz files, folders and archives
    fingerprint  what the run's own feature network was made from
    features     that network, and its file classifier.npz
    networks     Inception and DINOv2
    real         what networks find in the real images, and the files that keep it
    real_images  which images these are
    references   the same from reference files such as ADM's
    judge        networks, real images, and the scores of generated ones
    scoring      opens the judge
    table        scores.csv, one row per setting, seed and conditions
    stream       draw and score batch by batch, and continue after an interruption
    scored       one setting after another
    measure      draw what is missing in scores.csv, and score it
    published    figures from papers, next to ours
    pictures, captioned, style, figures, heatmaps, method_figures, page: how results are shown
    report       tables, report.json and report.html, for one run or many
    prompts, composed: what the images of a prompt must show, and whether they do
    clip_score, prompted: the CLIP score, and images for other scorers
    compose_rows, composing, compose_tables: scores of prompts for all guidance settings
    controlled   how steadily attribute control changes one thing on the shapes
    comparison, compare, curves: several runs as points, their report, and curves of training
    trials, tuning, tuned: which settings tuning tries, drawing them, and the best ones
    tuned_rows, tuned_tables, tuned_figures: what tuning writes
"""
