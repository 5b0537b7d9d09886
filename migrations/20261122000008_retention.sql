-- Retention: what the relay may delete, and no more. And what takes a while on the app's tables,
-- apart from the files that lock them. May be run again at any time.

-- The services write the audit and cannot change it. This is all they can remove: rows older than a
-- week, and older than they ask for.
create or replace function sluice.prune_audit(older_than interval, most integer)
returns bigint
language sql
volatile
security definer
set search_path = ''
as $$
  with old as (
    select id
    from sluice.audit
    where at < now() - greatest(older_than, interval '7 days')
    order by id
    limit most
  ),
  gone as (
    delete from sluice.audit
    using old
    where audit.id = old.id
    returning audit.id
  )
  select count(*) from gone
$$;

revoke all on function sluice.prune_audit(interval, integer) from public;

-- With another tool than `sluice migrate`, which does this afterwards and in a transaction each.
-- Validating reads the rows under a lock that stops no insert, update or delete.
do $$
declare
  slow record;
begin
  if coalesce(current_setting('sluice.migrating', true), '') = 'on' then
    return;
  end if;
  perform set_config('lock_timeout', '500ms', true);
  for slow in
    select *
    from sluice.slow_changes()
  loop
    begin
      if slow.alone or slow.change is null then
        raise notice 'sluice: missing: %: %', slow.item, slow.without
          using hint = slow.mend;
      else
        execute slow.change;
      end if;
    exception
      when check_violation or foreign_key_violation then
        raise notice 'sluice: missing: %: %', slow.item, slow.without
          using hint = slow.mend;
    end;
  end loop;

  -- The functions of this file are the services', too.
  perform sluice.adapt_and_tell();
end
$$;
