-- What this version of the shop expects of its database; "shop migrate" runs it. Each statement may be run again.
create table if not exists orders (
    id       text primary key,
    product  text not null,
    quantity int not null check (quantity > 0),
    status   text not null,
    placed   timestamptz not null
);
create index if not exists orders_newest on orders (placed desc, id);
