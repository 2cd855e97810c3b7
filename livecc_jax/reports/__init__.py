"""Reports as one self-contained HTML page, the same in Markdown, and plots as inline SVG.

`page` holds the blocks of a report and writes them; `charts` draws the plots:

    from livecc_jax.reports import charts
    from livecc_jax.reports.page import Figure, Heading, Table, Text, write_html

    bars = [charts.Bar("rolling", 61.0, 55.0, 67.0), charts.Bar("full", 63.5)]
    write_html("report.html", [
        Heading("Cache policies", 1),
        Text("Accuracy on 200 questions."),
        Table(("policy", "accuracy %"), [("rolling", "61.0"), ("full", "63.5")]),
        Figure(charts.bar_chart(bars, "accuracy by policy", "percent"), "Accuracy, 95% intervals"),
    ])

Nothing else is needed: a page holds its styles and plots, follows the reader's choice of light or dark,
fits a phone, and runs no script. Every text may come from anyone; it is escaped. Plots need matplotlib
(`pip install 'livecc_jax[report]'`); without it a page says so where a plot would be, and is complete
otherwise.
"""
