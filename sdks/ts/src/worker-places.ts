import { timer } from "./clock.js";

/** Pause after a server returned none of the credits that it was asked for: it is looking for tasks with them. */
const ASK_AGAIN_MS = 50;

/**
 * The places of one stream. Those of all streams of a worker are its concurrency. A place is with one stream at a time:
 * it is occupied by a task, granted to the server as a credit, or owed, which is about to be granted. A place that becomes
 * free goes to a stream that has used all its own and has fewer; credits of a stream without work are returned, and go
 * to one that has used its own. A stream keeps at least one place.
 */
export class Share {
  readonly #all: Set<Share>;
  #places: number;
  #owed = 0;
  #granted = 0;
  /** Credits to be asked back. */
  #wanted = 0;
  /** Whether the server has been asked for credits, and has not answered, or with none a moment ago. */
  #isAsked = false;
  #askingAgain: NodeJS.Timeout | undefined;
  #isRetired = false;
  /** Whether the stream takes tasks. */
  isTaking: () => boolean = () => false;
  /** Called when there are credits to be granted, or to be asked back. */
  onChange: () => void = () => undefined;

  /**
   * @param all The shares of a worker, to which this one is added.
   * @param places Places that no other share has.
   */
  constructor(all: Set<Share>, places: number) {
    this.#all = all;
    this.#places = places;
    all.add(this);
  }

  /** Number of places. */
  get places(): number {
    return this.#places;
  }

  /** Whether the server may still deliver tasks. */
  get isGranted(): boolean {
    return this.#granted > 0;
  }

  /** Starts a stream: the places that no task occupies are owed. */
  open(creditsMax: number, occupied: number): void {
    this.close();
    this.#owed = Math.max(0, Math.min(this.#places, creditsMax) - occupied);
  }

  /** Ends a stream, and its credits. */
  close(): void {
    clearTimeout(this.#askingAgain);
    this.#granted = this.#wanted = this.#owed = 0;
    this.#isAsked = false;
  }

  /** Takes deliveries, each of which occupies a place. */
  spend(count: number): void {
    this.#granted -= count;
    this.#balance();
  }

  /** Takes the place of a task that has ended. */
  free(): void {
    const taker = this.#isRetired ? this.#smallest((share) => !share.#isRetired) : this.#starving();
    if (taker !== undefined && (this.#isRetired || taker.#places + 1 < this.#places)) this.#move(1, taker);
    else this.#owed += 1;
  }

  /** Returns the credits to grant now. */
  grant(): number {
    const count = this.#owed;
    this.#owed = 0;
    this.#granted += count;
    if (count > 0) this.#balance();
    return count;
  }

  /** Returns the number of credits to ask back now; 0: none. */
  ask(wantsAll: boolean): number {
    if (this.#isAsked) return 0;
    const count = wantsAll ? this.#granted : this.#wanted;
    this.#wanted = 0;
    this.#isAsked = count > 0;
    return count;
  }

  /** Takes the server's answer: the credits that it has not spent on tasks on their way. */
  returned(count: number): void {
    this.#granted -= count;
    if (count === 0) {
      this.#askingAgain = timer(() => {
        this.#isAsked = false;
        this.#balance();
        this.onChange();
      }, ASK_AGAIN_MS);
      return;
    }
    this.#isAsked = false;
    const taker = this.isTaking() ? this.#starving() : undefined; // the next stream needs those of one that is left
    if (taker === undefined) {
      this.#owed += count;
      return;
    }
    this.#move(count, taker);
    this.#balance();
  }

  /** Ends for good: the places that tasks occupy go to others as the tasks end. Returns the number of the others. */
  retire(occupied: number): number {
    this.close();
    this.#isRetired = true;
    const free = this.#places - occupied;
    this.#places = occupied;
    return free;
  }

  /** Takes no more part; it has no place. */
  leave(): void {
    this.#all.delete(this);
  }

  #move(count: number, taker: Share): void {
    this.#places -= count;
    taker.#places += count;
    taker.#owed += count;
    taker.onChange();
  }

  /** Asks the share with the most credits for half of them if another one has used its own. */
  #balance(): void {
    if (this.#all.size < 2 || this.#starving() === undefined) return;
    let giver: Share | undefined;
    for (const each of this.#all) {
      const mayGive = each.isTaking() && !each.#isAsked && each.#wanted === 0 && each.#granted > 1;
      if (mayGive && (giver === undefined || each.#granted > giver.#granted)) giver = each;
    }
    if (giver === undefined) return;
    giver.#wanted = Math.floor(giver.#granted / 2);
    giver.onChange();
  }

  /** Returns the share with the fewest places among those that have a task in each. */
  #starving(): Share | undefined {
    if (this.#all.size < 2) return undefined;
    return this.#smallest((share) => share.isTaking() && share.#granted <= 0 && share.#owed === 0);
  }

  #smallest(isOne: (share: Share) => boolean): Share | undefined {
    let found: Share | undefined;
    for (const each of this.#all) if (isOne(each) && (found === undefined || each.#places < found.#places)) found = each;
    return found;
  }
}
