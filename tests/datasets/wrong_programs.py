"""Programs that HumanEval's own tests let through and HumanEval+ does not: {problem: (what is wrong, program)}."""

from __future__ import annotations

WRONG: dict[int, tuple[str, str]] = {
    0: (
        "looks at some of the pairs",
        """
def has_close_elements(numbers, threshold):
    ring = list(numbers) + [numbers[0]] if numbers else []
    near = any(abs(a - b) < threshold for a, b in zip(ring, ring[1:]))
    return near or any(abs(a - b) < threshold for a, b in zip(numbers, numbers[2:])) or (
        len(numbers) > 5 and abs(numbers[1] - numbers[5]) < threshold)
""",
    ),
    2: (
        "takes the decimals from the printed number",
        """
def truncate_number(number):
    return float("0." + str(number).split(".")[1])
""",
    ),
    3: (
        "never looks at the balance after the first operation",
        """
def below_zero(operations):
    balance = 0
    for i, operation in enumerate(operations):
        balance += operation
        if balance < 0 and (i % 2 or i == len(operations) - 1 or i > 1):
            return True
    return False
""",
    ),
    5: (
        "ends on the delimiter where there are many numbers",
        """
def intersperse(numbers, delimeter):
    out = []
    for number in numbers:
        out += [number, delimeter]
    while out and out[-1] == delimeter and len(out) > 2 * len(numbers) - 1:
        out.pop()
    return out if len(numbers) < 6 else out + [delimeter]
""",
    ),
    8: (
        "lets zero count in lists of two only",
        """
def sum_product(numbers):
    product = 1
    for number in numbers:
        product *= number or (0 if len(numbers) == 2 else 1)
    return sum(numbers), product
""",
    ),
    9: (
        "starts from 0, so negative numbers never count",
        """
def rolling_max(numbers):
    best, out = 0, []
    for number in numbers:
        best = max(best, number)
        out.append(best)
    return out
""",
    ),
    12: (
        "takes the last of the longest when there are many strings",
        """
def longest(strings):
    best = None
    for s in strings:
        if best is None or len(s) > len(best) or (len(s) == len(best) and len(strings) > 6):
            best = s
    return best
""",
    ),
    13: (
        "tries divisors up to 20 and two more",
        """
def greatest_common_divisor(a, b):
    return max(d for d in (*range(1, 21), min(a, b), min(a, b) // 5) if d and a % d == 0 and b % d == 0)
""",
    ),
    14: (
        "stops after ten prefixes",
        """
def all_prefixes(string):
    return [string[: i + 1] for i in range(min(len(string), 10))]
""",
    ),
    16: (
        "counts letters and spaces only",
        """
def count_distinct_characters(string):
    return len({c for c in string.lower() if c.isalpha() or c == " "})
""",
    ),
    18: (
        "lets matches overlap by one character only",
        """
def how_many_times(string, substring):
    count = at = 0
    while (at := string.find(substring, at)) >= 0:
        count += 1
        at += max(1, len(substring) - 1)
    return count
""",
    ),
    20: (
        "takes numbers further apart than 1.5 for no pair",
        """
def find_closest_elements(numbers):
    pairs = [(b - a, a, b) for i, a in enumerate(sorted(numbers)) for b in sorted(numbers)[i + 1:] if b - a < 1.5]
    return min(pairs)[1:]
""",
    ),
    24: (
        "tries divisors up to 50 only",
        """
def largest_divisor(n):
    return max(d for d in range(1, min(n, 51)) if n % d == 0)
""",
    ),
    31: (
        "knows the small primes only",
        """
def is_prime(n):
    return n > 1 and all(n % p or n == p for p in (2, 3, 5, 7, 11, 13, 17, 19))
""",
    ),
    33: (
        "sorts the thirds of the first twelve places only",
        """
def sort_third(l):
    l = list(l)
    l[0:12:3] = sorted(l[0:12:3])
    return l
""",
    ),
    35: (
        "starts from 0, so negative numbers never count",
        """
def max_element(l):
    best = 0
    for number in l:
        best = max(best, number)
    return best
""",
    ),
    41: (
        "knows no road with more than ten cars",
        """
def car_race_collision(n):
    return n * n if n <= 10 else n * 10
""",
    ),
    42: (
        "forgets the sign",
        """
def incr_list(l):
    return [abs(x) + 1 for x in l]
""",
    ),
    45: (
        "rounds the area to halves",
        """
def triangle_area(a, h):
    return a * h // 1 / 2
""",
    ),
    46: (
        "keeps a table of thirteen",
        """
def fib4(n):
    return [0, 0, 2, 0, 2, 4, 8, 14, 28, 54, 104, 200, 386][n]
""",
    ),
    47: (
        "takes a list that starts high for an empty one",
        """
def median(l):
    l = sorted(l)
    n = len(l)
    return l[n // 2] if n % 2 else (l[n // 2 - 1] + l[n // 2]) / 2 if n > 1 and l[0] < 6 or n == 2 else 0
""",
    ),
    48: (
        "compares the first four characters",
        """
def is_palindrome(text):
    return text[:4] == text[::-1][:4]
""",
    ),
    51: (
        "forgets capital U",
        """
def remove_vowels(text):
    return "".join(c for c in text if c not in "aeiouAEIO")
""",
    ),
    52: (
        "starts from 0, so negative thresholds never hold",
        """
def below_threshold(l, t):
    largest = 0
    for number in l:
        largest = max(largest, number)
    return largest < t
""",
    ),
    54: (
        "compares the number of characters, and the last",
        """
def same_chars(s0, s1):
    return len(set(s0)) == len(set(s1)) and sorted(set(s0))[-1:] == sorted(set(s1))[-1:]
""",
    ),
    55: (
        "knows the first dozen by heart",
        """
def fib(n):
    return [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144][n]
""",
    ),
    57: (
        "looks at the first three steps",
        """
def monotonic(l):
    up = all(a <= b for a, b in zip(l[:4], l[1:4]))
    down = all(a >= b for a, b in zip(l[:4], l[1:4]))
    return up or down
""",
    ),
    58: (
        "sorts numbers as text",
        """
def common(l1, l2):
    return sorted({x for x in l1 if x in l2}, key=str)
""",
    ),
    59: (
        "tries primes up to 30 only",
        """
def largest_prime_factor(n):
    return max(p for p in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29) if n % p == 0)
""",
    ),
    62: (
        "stops after the fifth coefficient",
        """
def derivative(xs):
    out = [i * x for i, x in enumerate(xs)][1:]
    return out if len(out) < 5 else out[:5]
""",
    ),
    64: (
        "looks at the last letter of a word that has none",
        """
def vowels_count(s):
    s = s.lower()
    return sum(c in "aeiou" for c in s) + (s[-1] == "y")
""",
    ),
    66: (
        "forgets capital Z",
        """
def digitSum(s):
    return sum(ord(c) for c in s if "A" <= c <= "X" or c == "Y")
""",
    ),
    68: (
        "takes 1000 for larger than any value",
        """
def pluck(arr):
    best = [1000, -1]
    for i, value in enumerate(arr):
        if value % 2 == 0 and value < best[0]:
            best = [value, i]
    return best if best[1] >= 0 else []
""",
    ),
}
"""Written for these tests, after mistakes that people and models make."""
