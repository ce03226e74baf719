/** A page of a list; it may be short or empty although more pages follow. */
export interface Page<Item> {
  /** Items in the requested order. */
  readonly items: readonly Item[];
  /** Token of the next page; empty on the last one. */
  readonly nextPageToken: string;
}

/** Yields the items of all pages from a token on. */
export async function* pages<Item>(
  read: (pageToken: string) => Promise<Page<Item>>,
  pageToken = "",
): AsyncGenerator<Item, void, undefined> {
  for (let token = pageToken; ; ) {
    const page = await read(token);
    yield* page.items;
    if (page.nextPageToken === "") return;
    token = page.nextPageToken;
  }
}
