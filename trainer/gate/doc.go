// Package gate decides which versions of a model may serve. It is pure: no I/O, no clock, no
// randomness, no goroutine; the same events give the same decisions.
//
// A candidate climbs a ladder (Decide): its files are whole, its values finite, it loads and
// answers, it answers as the trainer did; then, on fresh rows that neither side was trained
// on, it beats a constant prediction, is proven not worse than the champion by more than the
// margin, and not worse than the anchor either. Nothing that fails a rung serves, and every
// decision carries the checks it rests on.
//
// # The test
//
// A Test bets on the clipped difference of two losses, row by row:
//
//	d = clip((1+margin)·loss_champion − loss_candidate, ±clip)
//
// against H0: E[d | rows before] ≤ 0. Wealth starts at 1 and is multiplied by 1 + λd, with λ ≥ 0
// chosen from earlier rows alone; under H0 it is a non-negative supermartingale, so by Ville's
// inequality it ever reaches 1/alpha with probability at most alpha, however often one looks
// (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B
// 2024). The same bets on −d give the e-value of the opposite claim, harm.
//
// The claim concerns the clipped difference. Where differences are autocorrelated with mean
// zero, the conditional mean is not, and no bound holds for any such test; λ is therefore
// shrunk by the autocorrelation measured, which keeps the realised rate near alpha while a
// difference depends on a handful of rows before it, and within a few times alpha when on
// twenty (the package's simulations state the figures).
//
// # The book
//
// A Book keeps several candidates under test at once. It is a step function: Offer, Rows,
// ByHand and End go in, decisions come out, and Wants says which version has to be scored from
// where. It remembers the losses of a window of rows, so a candidate that comes late, or one
// that meets a new champion, is judged on the very rows it would have been judged on anyway.
//
// # Creep
//
// A margin lost at each of many publishes adds up, so a candidate must also hold against the
// anchor, which moves only to a version proven superior to the anchor itself (margin zero), to
// the first version, or to one chosen by hand. Proof against the champion alone would not do:
// down by almost a margin and up by a hair, again and again, would carry the anchor down.
package gate
