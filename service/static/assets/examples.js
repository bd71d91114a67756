// Example texts and pairs, by input type.

export const EXAMPLES = {
  texts: [
    "A dog runs along the beach.",
    "On the sand by the sea, a puppy is running.",
    "The cat sleeps on a warm windowsill.",
    "Share prices fell sharply on Tuesday.",
    "Stocks lost much of their value this week.",
    "How do I cancel my subscription?",
    "I would like to end my membership.",
    "Water boils at a lower temperature on a mountain.",
  ],
  pairs: [
    "How tall is a giraffe? | A grown giraffe is about five meters tall.",
    "How tall is a giraffe? | Giraffes eat leaves and twigs.",
    "When does the library open? | Doors open at nine on weekdays.",
    "When does the library open? | The reading room has sixty seats.",
    "Who wrote this report? | The author is named on its last page.",
  ],
};
