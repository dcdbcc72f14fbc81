"""A comparison as a page that people read, offline: figures, tables, replies, cost, and where all of it comes from.

facets       what stands in one panel: the methods of one model, task, poison ratio and memory, and what they start from
palette      colours, light and dark
drawing      what all figures share: matplotlib's style, a colour and a mark for each method; SVG, PNG and PDF
svg          matplotlib's SVG as a page may hold it
tradeoff     what safety costs: attack success × utility, refusals as a ring, the Pareto front
curves       a rate over the poison ratio, the size of the memory, or the steps of the training
categories   which kinds of harm come back
examples     replies side by side, of the prompts on which the models differ most
significance the rates with paired tests
tables       them as tables, with marks
table_files  these as Markdown, CSV, JSON and LaTeX
page         all of it in one HTML file: no script, no request
"""
