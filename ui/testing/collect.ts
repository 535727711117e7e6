/** Everything that comes, as an array. (`Array.fromAsync` is younger than Node 20.) */
export async function collect<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const found: Item[] = [];
  for await (const item of items) found.push(item);
  return found;
}
