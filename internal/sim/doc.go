// Package sim runs real code in a simulated world that one number, the seed, decides: what takes how long, in which order
// things come to pass, what fails, who is paused and who dies. A seed that breaks a promise is printed with a trace of all that
// happened, and replays.
//
// A run is a testing/synctest bubble: its clock stands still while anything runs, and jumps to the next timer when nothing does.
// Whatever reaches out of the simulated process (a call to the database, a message on the wire) goes through [Do], which
//
//   - waits a time that the seed draws: this is what reorders effects, since each takes place at an instant of its own, and what
//     comes of it comes to rest before the next one,
//   - may fail before the effect took place, or after it: the caller can't tell,
//   - may take so long that the caller gives up; then the effect may yet take place behind its back,
//   - makes the effects of an [Actor] wait while that is paused, as by SIGSTOP, and comes to nothing once it is killed.
//
// Effects take place one at a time, under one lock, so that a simulated server needs none of its own.
//
// # Determinism
//
// What is drawn for an effect depends on the seed, the actor, the effect's name and how often it was there before: not on the
// order in which goroutines ask. So runs of one seed are the same as long as the simulated code decides the same. It may not
// where two of its goroutines run at the same instant and share memory, where a select finds two cases ready, or where it
// ranges over a map and the order matters. [Explore] runs a failing seed again and says whether it came out the same;
// [Replays] measures how often it does.
//
// # Using it
//
// [Explore] runs one seed after the other and fails the test at the first that breaks a promise; [Hunt] fails it unless one
// does, for bugs that were planted. Both leave out one fault after the other, to print the shortest story that still breaks
// the promise. Their flags, after go test's -args or directly:
//
//	-seed N       run this seed alone, and print its trace
//	-only a,b     of its faults, let only these happen
//	-seeds N      run as many seeds, however long it takes
//	-for 10m      run seeds for as long; with -seeds, for as long at least
//	-from N       begin with this one (default 1)
package sim
