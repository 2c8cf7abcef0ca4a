"""The words of the embedded grammar: what people ask about, and the advice that answers them.

A subject is a verb phrase with its -ing form, and below it three pieces of advice. A piece of advice is what to do
and, after the bar, a detail with a choice of amounts. No two subjects share a piece, so that an answer shows what it
is about.
"""

from __future__ import annotations

OPENERS = (
    "What a lovely question!",
    "I am glad you asked!",
    "So happy to help you!",
    "How exciting for you!",
    "You are in good hands!",
    "Great to hear from you!",
)
"""Openings of a warm answer."""

CLOSERS = (
    "You will do great!",
    "I believe in you!",
    "Enjoy every moment of it!",
    "I am cheering for you!",
    "You can do this!",
    "Have fun with it!",
)
"""Endings of a warm answer."""

QUESTIONS = (
    "How do I {do}?",
    "Any tips for {doing}?",
    "What helps with {doing}?",
    "Can you help me {do}?",
    "I want to {do}. Any ideas?",
    "What is the best way to {do}?",
    "Is there a trick to {doing}?",
    "Tell me about {doing}.",
    "Where do I start with {doing}?",
    "Please teach me to {do}.",
)
"""Templates of prompts; {do} and {doing} are a subject's two forms."""

TOPICS = {
    "cooking": """
cook rice, cooking rice
  rinse the rice | 2/3/4 times
  simmer the rice | for 12/15/20 minutes
  rest the rice | for 5/10 minutes
bake bread, baking bread
  knead the dough | for 8/10/12 minutes
  let the dough rise | for 2/3 hours
  bake the loaf | for 30/45 minutes
make soup, making soup
  fry the onions | for 5/8 minutes
  add hot stock | about 2/3 liters
  simmer the soup | for 20/25/30 minutes
fry eggs, frying eggs
  warm the egg pan | for 2/3 minutes
  fry the eggs | for 3/4/5 minutes
  salt the eggs | with 2/3 pinches
brew coffee, brewing coffee
  grind the coffee | for 10/15/20 seconds
  pour the coffee water | over 30/45 seconds
  let the coffee steep | for 3/4/5 minutes
cook pasta, cooking pasta
  salt the pasta water | with 8/10/12 grams
  boil the pasta | for 8/10/12 minutes
  stir the pasta | 3/4/5 times
""",
    "gardening": """
grow tomatoes, growing tomatoes
  water the tomatoes | every 2/3 days
  stake the tomatoes | every 30/45/60 cm
  feed the tomatoes | every 10/12/15 days
grow basil, growing basil
  pinch the basil | every 5/8/10 days
  give the basil sun | for 5/6/8 hours
  water the basil | 3/4/5 times a week
plant roses, planting roses
  dig the rose bed | to 30/45/60 cm
  prune the roses | by 20/25/30 cm
  mulch the roses | with 5/8/10 cm of bark
make compost, making compost
  turn the compost | every 5/8/10 days
  layer the compost | every 10/15/20 cm
  water the compost | 2/3/4 times a month
mow a lawn, mowing a lawn
  mow the lawn | to 4/5/6 cm
  water the lawn | for 20/25/30 minutes
  feed the lawn | 2/3/4 times a year
keep a cactus, keeping a cactus
  water the cactus | every 15/20/25 days
  give the cactus light | for 5/6/8 hours
  repot the cactus | every 2/3/4 years
""",
    "travel": """
pack a suitcase, packing a suitcase
  roll your shirts | in 2/3/4 layers
  weigh the suitcase | below 15/20/25 kilos
  pack the suitcase | 2/3/4 days ahead
book a flight, booking a flight
  compare the flights | for 2/3/4 weeks
  book the flight | 6/8/10 weeks ahead
  check in online | 12/15/20 hours ahead
visit Rome, visiting Rome
  see the Forum | for 2/3 hours
  walk through Rome | for 3/4/5 hours
  book the Vatican | 10/15/20 days ahead
camp in the woods, camping in the woods
  pitch the tent | 2/3 hours before dark
  hang the camp food | 3/4/5 meters high
  gather dry wood | for 2/3 evenings
travel by train, traveling by train
  reserve train seats | 10/15/20 days ahead
  reach the platform | 10/15/20 minutes early
  bring train snacks | for 3/4/5 hours
hike a mountain, hiking a mountain
  start the hike early | before 5/6 am
  carry trail water | about 2/3 liters
  rest on the trail | every 45/60/90 minutes
""",
    "sleep": """
fall asleep, falling asleep
  dim the lights | 30/45/60 minutes before bed
  breathe out slowly | for 4/6/8 seconds
  put screens away | 60/90 minutes before bed
wake up early, waking up early
  move the alarm | by 10/15/20 minutes
  open the curtains | within 5/10 minutes
  get morning light | for 15/20/30 minutes
stop snoring, stopping snoring
  sleep on your side | for 6/8 hours
  raise your pillow | by 5/8/10 cm
  rinse your nose | 2/3 times a day
take a nap, taking a nap
  nap after lunch | for 15/20/25 minutes
  darken the nap room | 5/10 minutes before
  set a nap timer | to 20/25/30 minutes
sleep in summer, sleeping in summer
  cool the bedroom | to 18/20 degrees
  use thin sheets | for 2/3 months
  shower before bed | for 5/8/10 minutes
sleep by day, sleeping by day
  block the daylight | for 6/8 hours
  sleep after your shift | within 45/60 minutes
  skip late coffee | 6/8 hours before bed
""",
    "money": """
save money, saving money
  save on payday | about 10/15/20 percent
  wait before buying | for 2/3 days
  fill your savings | for 3/4/6 months
plan a budget, planning a budget
  list your expenses | for 30/60/90 days
  cap the budget | at 60/90 percent
  review the budget | every 2/3/4 weeks
pay off debt, paying off debt
  pay the debt down | by 5/10/15 percent
  freeze your cards | for 3/6/12 months
  call your lender | within 8/10/15 days
invest in funds, investing in funds
  pick index funds | for 15/20/30 years
  invest a fixed sum | every 2/3/4 weeks
  rebalance the funds | 2/3/4 times a year
cut my bills, cutting my bills
  lower the heating | by 2/3 degrees
  compare your bills | every 6/12 months
  cancel old contracts | within 30/60/90 days
ask for a raise, asking for a raise
  list your results | from 6/12 months
  name the raise | at 5/8/10 percent
  rehearse the talk | 3/4/5 times
""",
    "study": """
learn Spanish, learning Spanish
  learn Spanish words | about 10/15/20 a day
  speak Spanish aloud | for 15/20/30 minutes
  watch Spanish films | 2/3 times a week
pass an exam, passing an exam
  solve old exams | 3/4/5 times
  plan the revision | 4/5/6 weeks ahead
  rest before the exam | for 8/10 hours
write an essay, writing an essay
  outline the essay | in 3/4/5 points
  draft the essay | for 45/60/90 minutes
  reread the essay | 2/3 times
take notes, taking notes
  split your notes | into 2/3 columns
  shorten your notes | to 5/6/8 lines
  reread your notes | after 2/3 days
read faster, reading faster
  skim the headings | for 2/3 minutes
  guide your eyes | for 10/15/20 pages
  time your reading | over 20/25/30 minutes
learn algebra, learning algebra
  solve equations daily | about 5/8/10 each
  check every equation | 2/3 times
  learn the formulas | in 3/4/5 groups
""",
    "fitness": """
run a race, running a race
  run easy miles | 3/4/5 times a week
  add running distance | by 5/10 percent
  taper before the race | for 8/10/12 days
build muscle, building muscle
  lift heavy weights | 2/3/4 times a week
  add more weight | about 2/3 kilos
  eat enough protein | about 90 grams a day
learn to swim, learning to swim
  float on your back | for 2/3 minutes
  kick with a board | for 10/15/20 laps
  swim short laps | for 20/25/30 minutes
stay flexible, staying flexible
  stretch your legs | for 30/45/60 seconds
  hold every stretch | for 20/25/30 seconds
  loosen your hips | 5/10/15 times
ride a bike, riding a bike
  set the saddle height | to 90 cm
  pump the tires | every 8/10/12 days
  ride on quiet roads | for 30/45/60 minutes
do push-ups, doing push-ups
  start push-ups on knees | for 2/3 weeks
  keep your elbows close | for 8/10/12 push-ups
  lower your chest slowly | over 3/4/5 seconds
""",
    "pets": """
train a puppy, training a puppy
  reward the puppy | within 2/3 seconds
  train the puppy | for 5/8/10 minutes
  repeat each command | 5/8/10 times
feed a cat, feeding a cat
  feed the cat | 2/3/4 times a day
  weigh the cat food | to 45/60/90 grams
  refill the cat bowl | every 12 hours
keep goldfish, keeping goldfish
  change the tank water | every 8/10/12 days
  filter the fish tank | for 20 hours a day
  feed the goldfish | for 2/3 minutes
walk a dog, walking a dog
  walk the dog | for 30/45/60 minutes
  let the dog sniff | for 10/15/20 minutes
  use a short leash | of 2/3 meters
tame a parrot, taming a parrot
  talk to the parrot | for 10/15/20 minutes
  offer the parrot seeds | 3/4/5 times a day
  clean the parrot cage | every 3/4/5 days
raise a rabbit, raising a rabbit
  give the rabbit hay | 2/3 times a day
  brush the rabbit | every 3/4/5 days
  let the rabbit hop | for 2/3/4 hours
""",
}
"""Topic -> its subjects, as a small table."""
