"""Judge generated images: features, distances, and the report that a user opens.

In the order of understanding:

    rows         features of many samples, read in blocks
    statistics   mean and scatter, which batches are merged into; the Fréchet distance
    predictions  sums over a classifier's predictions; the Inception Score
    pairs        programs over all pairs of samples, on the devices
    neighbours   precision and recall
    kernel       the Kernel Inception Distance
    sliced       the Monge Inception Distance
    distances    all of these under their public names
    metrics      one row per metric: what it is computed from, how it prints, how to read it
    results      a setting's scores over seeds
    reading      the real images, in batches
    fingerprint  what a feature network was made from
    features     the feature network, and its file classifier.npz
    real         what it finds in the real images, and the file real.npz
    scoring      the judge: networks, real images, and the scores of generated ones
    table        scores.csv, one row per setting, seed and conditions
    measure      draw what is missing there, and score it
    pictures, style, figures, heatmaps, method_figures, page: what is shown
    report       tables, report.json and report.html, of one run or many
    comparison, compare: several runs as points, and their report
"""
