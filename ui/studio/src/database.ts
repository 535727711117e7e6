/** IndexedDB by promises: `pictures`, the `sources` that running jobs began with, and `posts` without an answer. */

const NAME = "sd-worker";
const VERSION = 2;

export type StoreName = keyof typeof KEYS;

const KEYS = { pictures: "id", sources: "jobId", posts: "key" } as const;

let opened: Promise<IDBDatabase> | null = null;

const closed = (): void => {
  opened = null; // opened anew by whoever asks next
};

function open(): Promise<IDBDatabase> {
  opened ??= new Promise<IDBDatabase>((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      for (const [name, keyPath] of Object.entries(KEYS)) {
        if (!request.result.objectStoreNames.contains(name)) request.result.createObjectStore(name, { keyPath });
      }
    };
    request.onsuccess = () => {
      const database = request.result;
      database.onclose = closed;
      database.onversionchange = () => {
        database.close(); // a younger page in another tab could not open it otherwise
        closed();
      };
      resolve(database);
    };
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("An older studio in another tab holds the browser's storage"));
  }).catch((error: unknown) => {
    closed();
    throw error;
  });
  return opened;
}

async function run<Result>(
  name: StoreName,
  mode: IDBTransactionMode,
  work: (store: IDBObjectStore) => IDBRequest<Result>,
): Promise<Result> {
  const transaction = (await open()).transaction(name, mode);
  const request = work(transaction.objectStore(name));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

export const put = (name: StoreName, value: unknown): Promise<unknown> =>
  run(name, "readwrite", (store) => store.put(value));

export const get = <Value>(name: StoreName, key: string): Promise<Value | undefined> =>
  run(name, "readonly", (store) => store.get(key) as IDBRequest<Value | undefined>);

export const all = <Value>(name: StoreName): Promise<Value[]> =>
  run(name, "readonly", (store) => store.getAll() as IDBRequest<Value[]>);

export const remove = (name: StoreName, key: string): Promise<unknown> =>
  run(name, "readwrite", (store) => store.delete(key));

/** For what can be done without: a browser in which nothing is kept still draws. */
export const bestEffort = <Value>(work: Promise<Value>): Promise<Value | undefined> => work.catch(() => undefined);
