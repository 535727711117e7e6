/** IndexedDB by promises: two stores, `pictures` and `sources`. */

const NAME = "sd-worker";
const VERSION = 1;

export type StoreName = "pictures" | "sources";

let opened: Promise<IDBDatabase> | null = null;

function open(): Promise<IDBDatabase> {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("pictures", { keyPath: "id" });
      request.result.createObjectStore("sources", { keyPath: "jobId" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
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
