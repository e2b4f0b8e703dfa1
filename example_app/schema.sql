-- Omni Keywords: the words of many languages, how often people use them, and the lists people keep.

CREATE TABLE language (
  id INTEGER PRIMARY KEY,
  code TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  native_name TEXT NOT NULL
);

CREATE TABLE keyword (
  id INTEGER PRIMARY KEY,
  language_id INTEGER NOT NULL REFERENCES language (id),
  word TEXT NOT NULL,
  per_million REAL NOT NULL,  -- occurrences in a million words of text
  zipf REAL NOT NULL,         -- log10 of the occurrences in a thousand million words
  rank INTEGER NOT NULL       -- 1 is the language's most frequent word
);

CREATE TABLE saved_list (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  starter BOOLEAN NOT NULL DEFAULT 0,  -- comes with the app; people copy from it, they do not change it
  created_at TIMESTAMP NOT NULL
);

CREATE TABLE saved_item (
  id INTEGER PRIMARY KEY,
  list_id INTEGER NOT NULL REFERENCES saved_list (id),
  keyword_id INTEGER NOT NULL REFERENCES keyword (id),
  added_at TIMESTAMP NOT NULL
);
