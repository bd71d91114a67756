"""English texts of mixed length for the measurement of accuracy."""

from __future__ import annotations

_PARAGRAPHS = """
opening hours

How do I reset my password?

cheap flights from Lisbon to Oslo in March

The museum is closed on Mondays.

My order arrived two weeks late, and one of the glasses was broken.

Is it safe to take ibuprofen together with paracetamol?

Peel the potatoes, cut them into thin slices and soak them in cold water for half an hour.

ERROR 1045 (28000): Access denied for user 'root'@'localhost' (using password: YES)

She left the house before sunrise, walked down to the harbor and watched the first boats come in.

Photosynthesis converts light into chemical energy: plants use it to make sugar from carbon dioxide and water.

In 1969, about 600 million people watched the first humans walk on the Moon on their television sets.

The two-bedroom apartment on the third floor has a balcony to the south, a small kitchen, and no elevator. Pets are
welcome. The rent is 1,150 euros a month, heating included.

Shares of the company fell by 7.4 percent on Thursday after it lowered its forecast for the year, citing weak demand
for electric vehicles and higher interest rates; analysts had expected a smaller change.

I bought this vacuum cleaner in spring and have used it almost every day since. It is light, not too loud, and the
battery lasts for the whole apartment. The only thing I do not like is the dust container, which is hard to empty
without getting half of the dust on your hands.

A binary search finds the position of a value in a sorted array. It compares the value with the middle element: if
they are equal, the search is over; if not, the half in which the value cannot lie is eliminated, and the search
continues in the remaining half. The number of comparisons grows with the logarithm of the length, so that twenty are
enough for a million elements.

The old bridge had carried the only road into the valley for more than a century. When the river rose in the autumn
storms, the council closed it to trucks, then to cars, and finally to everyone. For three weeks the baker's bread came
by boat, the children had lessons in the town hall, and the doctor crossed on a rope ferry that the fire brigade had
built in one night. Nobody was surprised when the new bridge opened the following summer; what surprised the visitors
was that the people of the valley had kept the old one, painted it, put benches along its railing and planted flowers
where the lanes had been.
"""

TEXTS = tuple(" ".join(paragraph.split()) for paragraph in _PARAGRAPHS.strip().split("\n\n"))
