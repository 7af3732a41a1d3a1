-- 100,000 orders of last year's summer, the same in every environment. Nobody has ever placed one of them.
create table orders (
    id       text primary key,
    product  text not null,
    quantity int not null check (quantity > 0),
    status   text not null,
    placed   timestamptz not null
);
insert into orders
select
    'seed-' || lpad(n::text, 6, '0'),
    (array['dew', 'lantern', 'sandcastle', 'bubbles', 'snowman', 'newspaper'])[1 + n % 6],
    1 + n % 5,
    'reserved',
    timestamptz '2025-06-01 00:00:00Z' + n * interval '79 seconds'
from generate_series(1, 100000) as n;
analyze orders;
