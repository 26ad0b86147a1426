CREATE TABLE orders (id text PRIMARY KEY, customer text NOT NULL, quantity integer NOT NULL);
