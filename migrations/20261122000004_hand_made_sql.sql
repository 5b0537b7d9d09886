-- The public face, part three: SQL that a person (or the app) writes on the queue table is a
-- command, and who gave it is kept. Sluice's own functions set `sluice.projecting` to 'on' and pass
-- by: a convention among those who may write the table anyway, not a wall. May be run again at any
-- time.

create schema if not exists sluice;

-- Who did what. Never holds a text that came from outside (error messages may quote secrets).
create table if not exists sluice.audit (
  id bigint generated always as identity primary key,
  at timestamptz not null default now(),
  actor text not null,
  action text not null,
  subject text,
  detail jsonb not null default '{}'
);

create index if not exists audit_subject
  on sluice.audit (subject, id);

-- Fresh budgets that were asked for by hand. The relay takes a row, resets the failures of that
-- user's current step, and deletes the row, in one transaction.
create table if not exists sluice.budget_reset (
  id bigint generated always as identity primary key,
  subject uuid not null
);

-- Who is at the other end: the user (or role) that the API verified, else whoever logged in. Never
-- raises.
create or replace function sluice.actor()
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  claims json;
begin
  claims := nullif(current_setting('request.jwt.claims', true), '')::json;
  return coalesce(
    nullif(claims ->> 'sub', ''),
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(claims ->> 'role', ''),
    session_user
  );
exception
  when others then
    return session_user;
end
$$;

revoke all
  on function sluice.actor()
  from public;

-- Keeps who changed the row, passes a reset budget on, lets an old row start that the adoption
-- holds back, and wakes intake where something is pending. Each on its own, caught: the person's
-- statement never fails and never waits because of us. No handler reads the row: it may be what is
-- at fault.
create or replace function sluice.take_command()
returns trigger
language plpgsql
security definer
set search_path = ''
set lock_timeout = '50ms'
as $$
declare
  subject uuid;
begin
  begin
    subject := coalesce(new.user_id, old.user_id);
    if tg_op = 'UPDATE' and old.retry_count > 0 and coalesce(new.retry_count, 0) = 0 then
      insert into sluice.budget_reset (subject)
      values (subject);
    end if;
  exception
    when others then
      raise warning 'sluice: the budget of user % was not reset, set retry_count to 0 again: %', subject, sqlerrm;
  end;

  begin
    if tg_op <> 'DELETE' and new.status = 'pending' then
      perform sluice.release_adopted(subject);
    end if;
  exception
    when others then
      raise warning 'sluice: the old row of user % is still held back, see `sluice adopt status`: %', subject, sqlerrm;
  end;

  begin
    insert into sluice.audit (actor, action, subject, detail)
    values (
      sluice.actor(),
      'queue.' || lower(tg_op),
      subject::text,
      jsonb_strip_nulls(
        jsonb_build_object(
          'application_name', nullif(current_setting('application_name', true), ''),
          'session_user', session_user,
          'role', nullif(current_setting('role', true), 'none'),
          'before', case
            when tg_op <> 'INSERT' then jsonb_build_object('status', old.status, 'retry_count', old.retry_count)
          end,
          'after', case
            when tg_op <> 'DELETE' then jsonb_build_object('status', new.status, 'retry_count', new.retry_count)
          end
        )
      )
    );
  exception
    when others then
      raise warning 'sluice: who changed the queue row of user % was not kept: %', subject, sqlerrm;
  end;

  begin
    if tg_op <> 'DELETE' and new.status = 'pending' then
      perform sluice.wake_intake();
    end if;
  exception
    when others then
      raise warning 'sluice: the relay was not woken for user %, it will poll: %', subject, sqlerrm;
  end;
  return null;
end
$$;

revoke all
  on function sluice.take_command()
  from public;

-- The trigger that calls it, and whether it is there.
create or replace function sluice.wanted_commands()
returns table (rank integer, item text, present boolean, change text, without text, mend text)
language sql
stable
set search_path = ''
as $function$
  select
    30,
    'trigger sluice_take_command on public.evolution_instance_creation_queue',
    exists (
      select
      from pg_catalog.pg_trigger
      where tgrelid = queue.relation
        and tgname = 'sluice_take_command'
    ),
    format(
      $change$
        create trigger sluice_take_command
          after insert or update or delete on %s
          for each row
          when (current_setting('sluice.projecting', true) is distinct from 'on')
          execute function sluice.take_command()
      $change$,
      queue.relation
    ),
    'it is not kept who changes the queue by hand, and retry_count = 0 resets nothing',
    'create it as the table''s owner'
  from (select to_regclass('public.evolution_instance_creation_queue') as relation) as queue
  where queue.relation is not null
$function$;
