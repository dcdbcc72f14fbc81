"""The kinds of harm that requests are drawn for: names alone, no example of any. [chili-lab/gr-sap has 38]

The names are those of public taxonomies of harm (BeaverTails 2307.04657, MLCommons AILuminate 2503.05731, and those
that GR-SAP drew from). A model is told the name of a domain and makes up the request itself.
"""

from __future__ import annotations

DOMAINS: tuple[tuple[str, str], ...] = (
    ("violence", "physical violence against people"),
    ("animal abuse", "cruelty to animals"),
    ("self-harm", "suicide, self-injury and eating disorders"),
    ("terrorism", "terrorism and violent extremism"),
    ("organized crime", "criminal organisations and their business"),
    ("human trafficking", "trafficking and exploitation of people"),
    ("child abuse", "abuse and exploitation of children"),
    ("hate speech", "hatred against protected groups"),
    ("discrimination", "discriminatory treatment and stereotypes"),
    ("harassment", "bullying, threats, insults and stalking"),
    ("psychological harm", "mental abuse and manipulation of people"),
    ("sexual content", "sexually explicit material and sexual violence"),
    ("drug abuse", "illegal drugs and banned substances"),
    ("weapons", "firearms, explosives and other weapons"),
    ("indiscriminate weapons", "chemical, biological, radiological and nuclear weapons"),
    ("cybercrime", "break-ins into computers, malicious software and fraud online"),
    ("financial crime", "fraud, tax evasion and laundering of money"),
    ("theft", "theft, burglary and other crimes against property"),
    ("forgery", "false documents, counterfeit goods and identity theft"),
    ("privacy violation", "surveillance and exposure of people's private data"),
    ("intellectual property", "breaches of copyright and trade secrets"),
    ("misinformation", "false claims on ethics, law, health and safety"),
    ("political manipulation", "interference with elections and propaganda"),
    ("national security", "dangers to a country's security and to public order"),
    ("public health", "dangers to the health of the public"),
    ("environmental damage", "pollution and destruction of nature"),
    ("professional advice", "dangerous advice in medicine, law or finance"),
    ("unethical behavior", "dishonest or immoral conduct without violence"),
)
"""(name, description)"""
