// The hook of loading.js for a Node.js without synchronous hooks (before 22.15): it runs in a thread of its own.

import { createRequire } from 'module';

const { elsewhere } = createRequire(import.meta.url)('./loading.js');
let folders = [];

export function initialize(data) {
  folders = data;
}

export async function resolve(specifier, context, next) {
  try {
    return await next(specifier, context);
  } catch (error) {
    for (const [name, where] of elsewhere(specifier, error, folders)) {
      try {
        return await next(name, { ...context, ...where });
      } catch { /* not in this one */ }
    }
    throw error;
  }
}
