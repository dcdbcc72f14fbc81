"""A comparison as a page that people read, offline: figures, tables, replies, cost, and where all of it comes from.

panels       what stands in one panel: the methods of one model, task, poison ratio and memory, and what they start from
drawing      the pieces of a figure: scales, ticks, marks, labels that keep out of each other's way
tradeoff     what safety costs: attack success × utility, refusals as a ring, the Pareto front
curves       a figure over the poison ratio, the size of the memory, or the steps of the training
categories   which kinds of harm come back
picture      a figure as PNG
examples     replies side by side, of the prompts on which the models differ most
significance the figures with paired tests; Markdown, CSV, JSON, LaTeX
page         all of it in one HTML file: no script, no request
"""
