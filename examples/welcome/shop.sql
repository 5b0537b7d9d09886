-- The shop's own table, and how it follows the runs of the workflow `welcome`.

create schema if not exists shop;

create table if not exists shop.customer (
  name text primary key,
  email text not null,
  -- new, greeting, welcome, failed
  state text not null default 'new',
  problem text
);

-- A projection: told of run ids, inside the settle's transaction. What it refuses undoes nothing
-- and is tried again.
create or replace function shop.show_welcome(runs uuid[])
returns void
language sql
set search_path = ''
as $$
  update shop.customer
  set state = case run.state when 'active' then 'greeting' when 'succeeded' then 'welcome' else 'failed' end,
    problem = letter.error
  from sluice.run
  left join sluice.dead_letter as letter
    on letter.run_id = run.id
    and letter.resolved_at is null
  where run.id = any (runs)
    and customer.name = run.subject
$$;

-- The services work as sluice_runtime, which owns nothing.
grant usage on schema shop to sluice_runtime;
grant select, update on shop.customer to sluice_runtime;
grant execute on function shop.show_welcome(uuid[]) to sluice_runtime;
